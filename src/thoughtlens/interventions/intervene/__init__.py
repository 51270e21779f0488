"""The intervene stage: trials of edits, and what they change."""
