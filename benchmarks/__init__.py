"""What Onward costs, in requests, capacity units and bytes, and in ratios against something run beside it."""
