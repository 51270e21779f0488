"""The replay stage: the first study's protocol, and its correction line by line."""
