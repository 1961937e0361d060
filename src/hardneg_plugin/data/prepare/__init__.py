"""From original files to a prepared folder: images resized once, a table of studies, and a list of what was left out."""
