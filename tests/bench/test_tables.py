"""Figures as text."""

from bench import tables


def test_three_significant_digits():
    assert [tables.digits(x) for x in (0.01234, 8.571, 42.0, 999.6, 12345.0)] == [
        "0.0123",
        "8.57",
        "42.0",
        "1000",
        "12345",
    ]
    assert [tables.duration(x) for x in (0.0009, 0.042, 0.9996, 14.591)] == ["0.900 ms", "42.0 ms", "1.00 s", "14.6 s"]
    assert [tables.times(x) for x in (0.987, 9.99, 9.996, 17.4)] == ["0.99×", "9.99×", "10×", "17×"]


def test_the_larger_time_chooses_the_unit_of_a_range():
    assert tables.duration(0.5, 90.0) == "0.00833 to 1.50 minutes"
    assert tables.duration(7200.0, 7200.0) == tables.duration(7200.0) == "2.00 hours"


def test_columns_of_figures_are_aligned_to_the_right():
    assert tables.markdown_table(["a", "b"], [["x", "1"]], numeric=True) == "| a | b |\n| --- | --: |\n| x | 1 |"
