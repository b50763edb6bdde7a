mock_provider "aws" {
  source = "../../mocks"
}

variables {
  emails          = ["a@example.org"]
  admin_role_arns = ["arn:aws:iam::123456789012:role/administrators"]
}

run "guarded" {
  assert {
    condition     = module.hub.guards.database_protected && module.hub.guards.zones == 3 && module.hub.guards.backup_days >= 7
    error_message = "an upgrade rehearsed here would not tell of prod"
  }
}
