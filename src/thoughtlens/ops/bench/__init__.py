"""What `thoughtlens bench` measures: medians of repeated runs, as one JSON-able dict each."""
