"""What costs money: creates, lost answers, prices, budgets, the account."""
