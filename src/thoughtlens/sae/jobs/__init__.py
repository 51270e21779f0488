"""SAEs to be trained: what each is, which go together, and how they come to their files."""
