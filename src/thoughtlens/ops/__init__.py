"""Around the work: machine checks, sharing, tracking, measuring."""
