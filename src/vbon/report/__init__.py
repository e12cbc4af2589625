"""The HTML report: reads run and evaluation folders, measures nothing."""
