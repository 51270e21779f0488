"""What people look at: figures, report, explorer, live pages."""
