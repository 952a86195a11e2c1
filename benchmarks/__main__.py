"""All benchmarks that need no data, one after the other: `python -m benchmarks`."""

from benchmarks import batch_transport, student_step, text_encoding, token_transport

for benchmark in (token_transport, batch_transport, student_step, text_encoding):
    benchmark.main()
