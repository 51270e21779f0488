"""What thoughts are read as, and what is put in their place."""
