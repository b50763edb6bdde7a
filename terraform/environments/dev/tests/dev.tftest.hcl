mock_provider "aws" {
  source = "../../mocks"
}

variables {
  emails          = ["a@example.org"]
  admin_role_arns = ["arn:aws:iam::123456789012:role/administrators"]
}

run "whole" {
  assert {
    condition     = output.hub.buckets["raw"] == "thalweg-dev-raw-123456789012" && output.hub.region == "us-east-1"
    error_message = "outputs do not tell where things are"
  }
  assert {
    condition     = output.hub.service_accounts["runs"] == "thalweg-runs"
    error_message = "runs have another service account than the scheduler gives them"
  }
}
