"""Training curves in W&B, TensorBoard and trackio; `metrics.parquet` is the source and needs none of them."""
