"""Monitor: how well a score of its thoughts tells that a problem's answer is not all that they hold."""
