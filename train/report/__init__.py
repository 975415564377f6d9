"""What runs show at their end: tables, pictures, pages."""

from train.report.quickstart import RuleResult, plot_angles, table, write_json

__all__ = ["RuleResult", "plot_angles", "table", "write_json"]
