"""What runs left on disk, read back: tables, figures, the report page. Imports nothing from training."""
