"""The tables of the pages, by theme; `kinds` names them all."""
