"""Self-contained HTML pages: what one run or several made of each study, their scores, curves and configs."""
