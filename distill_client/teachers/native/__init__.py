"""Our own server's protocol: its answers, its refusals, and what its receipts prove."""
