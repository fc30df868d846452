"""What a trained network's states hold: measured, as tables, as figures."""
