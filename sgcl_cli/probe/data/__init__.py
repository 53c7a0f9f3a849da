"""Who is evaluated and how the rows are divided: cohorts, splits, and the audit of both."""
