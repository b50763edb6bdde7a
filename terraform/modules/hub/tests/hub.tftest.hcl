mock_provider "aws" {
  source = "../../mocks"
}

variables {
  name            = "test"
  emails          = ["a@example.org"]
  admin_role_arns = ["arn:aws:iam::123456789012:role/administrators"]
  public_cidrs    = []
  zones           = ["a", "b"]
  nat_gateways    = 1
  database_class  = "db.t4g.micro"
  multi_az        = false
  backup_days     = 1
  protected       = false
  raw_lock_days   = 0
  log_days        = 30
  budget          = 100
  node_groups = {
    core = { purpose = "core", instance_types = ["m7i.large"], spot = false, min = 1, max = 2, disk = 50 }
  }
}

run "groups_with_a_lab_have_a_role_and_others_none" {
  assert {
    condition     = toset([for name in keys(output.role_arns) : name if startswith(name, "group-")]) == toset([for name, group in local.groups : "group-${name}" if group.lab])
    error_message = "the groups with a Lab in hub-config/groups.yaml have no role, or another has one"
  }
  assert {
    condition     = !contains(keys(output.role_arns), "group-partners")
    error_message = "who only looks at dashboards reaches the data"
  }
}

run "nobody_to_administer_it_is_refused" {
  command = plan
  variables {
    admin_role_arns = []
  }
  expect_failures = [var.admin_role_arns]
}

run "a_name_that_no_bucket_can_have_is_refused" {
  command = plan
  variables {
    name = "Thalweg_Dev"
  }
  expect_failures = [var.name]
}
