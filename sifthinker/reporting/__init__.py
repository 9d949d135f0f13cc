"""What people look at: the report, plots, the paper's numbers beside ours."""
