"""From original files to a prepared folder: images resized once, a table of studies, and what was left out."""
