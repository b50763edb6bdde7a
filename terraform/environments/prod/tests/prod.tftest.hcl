mock_provider "aws" {
  source = "../../mocks"
}

variables {
  emails          = ["a@example.org"]
  admin_role_arns = ["arn:aws:iam::123456789012:role/administrators"]
}

run "outlives_the_loss_of_a_zone" {
  assert {
    condition     = module.hub.guards.zones >= 3 && module.hub.guards.nat_gateways == module.hub.guards.zones && module.hub.guards.core_nodes >= 2
    error_message = "the loss of a zone takes the hub down"
  }
  assert {
    condition     = module.hub.guards.standby
    error_message = "the database has no standby in another zone"
  }
}

run "keeps_what_is_deleted_by_mistake" {
  assert {
    condition     = module.hub.guards.database_protected && module.hub.guards.backup_days == 35
    error_message = "the database can be deleted, or backups go before somebody looks"
  }
  assert {
    condition     = module.hub.guards.raw_lock_days >= 30
    error_message = "evidence can be deleted"
  }
}
