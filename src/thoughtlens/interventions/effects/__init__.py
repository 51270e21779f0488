"""What an edit makes of the answers: on which problems, with which numbers."""
