"""When jobs run: pure arithmetic."""
