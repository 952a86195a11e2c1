"""All benchmarks that need no data, one after the other: `python -m benchmarks`."""

from benchmarks import batch_transport, text_encoding, token_transport

for benchmark in (token_transport, batch_transport, text_encoding):
    benchmark.main()
