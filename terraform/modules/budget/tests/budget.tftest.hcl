mock_provider "aws" {
  source = "../../mocks"
}

variables {
  name    = "test"
  dollars = 100
  emails  = ["a@example.org"]
}

run "somebody_is_told_before_and_after" {
  assert {
    condition     = toset([for n in aws_budgets_budget.this.notification : n.notification_type]) == toset(["ACTUAL", "FORECASTED"])
    error_message = "a notice is missing"
  }
  assert {
    condition     = one(aws_budgets_budget.this.cost_filter).values == tolist(["user:thalweg$test"])
    error_message = "another environment's cost is counted"
  }
}

run "nobody_is_refused" {
  command = plan
  variables {
    emails = []
  }
  expect_failures = [var.emails]
}
