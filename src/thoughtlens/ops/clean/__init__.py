"""Delete what runs can make again."""
