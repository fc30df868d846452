"""The report on many runs: groups, tables, figures, the page. Reads run folders, imports nothing from training."""
