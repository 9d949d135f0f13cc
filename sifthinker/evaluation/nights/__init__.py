"""The nightly evaluation: its records, its comparison with earlier nights, its page."""
