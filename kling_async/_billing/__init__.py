"""What costs money: create, reconcile, prices, budgets, the account."""
