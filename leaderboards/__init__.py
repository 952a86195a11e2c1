"""The project's own results, and the pages that show records: leaderboards, studies and viewers of single queries."""
