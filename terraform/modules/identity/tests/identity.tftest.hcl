mock_provider "aws" {
  source = "../../mocks"
}

variables {
  name         = "test"
  cluster_name = "test"
  cluster_arn  = "arn:aws:eks:us-east-1:123456789012:cluster/test"
  namespace    = "thalweg"
  groups       = ["hydrology", "hydro"]
  catalogue    = "hydro"
  queue_arn    = "arn:aws:sqs:us-east-1:123456789012:test"
  key_arn      = "arn:aws:kms:us-east-1:123456789012:key/1"
  bucket_arns = {
    for key in ["raw", "warehouse", "runs", "gridded", "users", "logs"] : key => "arn:aws:s3:::test-${key}"
  }
  services = {
    runs = {
      service_account = "thalweg-runs"
      read            = ["raw", "warehouse", "runs", "gridded"]
      write           = ["raw", "warehouse", "runs", "gridded"]
      delete          = ["warehouse", "gridded"]
      catalogue       = "write"
      queue           = false
    }
    dashboards = {
      service_account = "thalweg-dashboards"
      read            = ["warehouse"]
      write           = []
      delete          = []
      catalogue       = "read"
      queue           = false
    }
  }
}

run "no_star_where_it_gives_more_than_was_said" {
  assert {
    condition = alltrue(flatten([for p in aws_iam_role_policy.this : [for s in jsondecode(p.policy).Statement : [
      for action in s.Action : !strcontains(action, "*")
    ]]]))
    error_message = "an action has a star"
  }
  assert {
    condition = alltrue(flatten([for p in aws_iam_role_policy.this : [for s in jsondecode(p.policy).Statement : [
      for resource in s.Resource : resource != "*" && !startswith(resource, "arn:aws:s3:::*")
    ]]]))
    error_message = "a resource is everything"
  }
}

run "a_group_owns_its_prefix_and_no_other" {
  assert {
    condition = toset(flatten([for s in jsondecode(aws_iam_role_policy.this["group-hydro"].policy).Statement : s.Resource
      if anytrue([for action in s.Action : contains(["s3:PutObject", "s3:DeleteObject"], action)])])
    ) == toset(["arn:aws:s3:::test-users/hydro/*", "arn:aws:s3:::test-users/people/$${aws:PrincipalTag/kubernetes-pod-name}/*"])
    error_message = "a group writes outside its prefix, or cannot write in it"
  }
  assert {
    condition = alltrue(flatten([for s in jsondecode(aws_iam_role_policy.this["group-hydro"].policy).Statement : [
      for resource in s.Resource : startswith(resource, "arn:aws:s3:::test-users/hydro/") || startswith(resource, "arn:aws:s3:::test-users/people/$${aws:PrincipalTag/kubernetes-pod-name}/")
      if startswith(resource, "arn:aws:s3:::test-users/")
    ]]))
    error_message = "a group reaches another's prefix"
  }
  assert {
    condition = [for s in jsondecode(aws_iam_role_policy.this["group-hydro"].policy).Statement : s.Condition.StringLike["s3:prefix"]
    if contains(s.Action, "s3:ListBucket") && contains(s.Resource, "arn:aws:s3:::test-users")] == [["hydro/*", "people/$${aws:PrincipalTag/kubernetes-pod-name}/*"]]
    error_message = "a group lists what another has"
  }
  assert {
    condition = alltrue([for role in ["runs", "dashboards"] : !strcontains(aws_iam_role_policy.this[role].policy, "test-users")
    ])
    error_message = "a service reaches what groups keep for themselves"
  }
}

run "groups_read_what_is_shared" {
  assert {
    condition = alltrue([for bucket in ["raw", "warehouse", "runs", "gridded"] : anytrue([
      for s in jsondecode(aws_iam_role_policy.this["group-hydrology"].policy).Statement :
      contains(s.Action, "s3:GetObject") && contains(s.Resource, "arn:aws:s3:::test-${bucket}/*")
    ])])
    error_message = "a group cannot read what is shared"
  }
}

run "nobody_deletes_in_raw" {
  assert {
    condition = alltrue(flatten([for p in aws_iam_role_policy.this : [for s in jsondecode(p.policy).Statement : [
      for resource in s.Resource : !startswith(resource, "arn:aws:s3:::test-raw")
    ] if contains(s.Action, "s3:DeleteObject")]]))
    error_message = "evidence can be deleted"
  }
}

run "who_reads_the_catalogue_does_not_write_it" {
  assert {
    condition     = !strcontains(aws_iam_role_policy.this["dashboards"].policy, "glue:UpdateTable") && strcontains(aws_iam_role_policy.this["runs"].policy, "glue:UpdateTable")
    error_message = "dashboards can change tables, or runs cannot"
  }
}

run "no_backup_without_a_bucket" {
  assert {
    condition = alltrue(flatten([for p in aws_iam_role_policy.this : [for s in jsondecode(p.policy).Statement :
      s.Sid != "Backups"
    ]]))
    error_message = "a role writes backups, and no bucket was named"
  }
}

run "who_writes_makes_backups_and_deletes_none" {
  variables {
    backup_bucket = "our-backups"
  }
  assert {
    condition     = [for name, p in aws_iam_role_policy.this : name if strcontains(p.policy, "our-backups")] == ["runs"]
    error_message = "others than runs reach the backups"
  }
  assert {
    condition = [for s in jsondecode(aws_iam_role_policy.this["runs"].policy).Statement : s
      if strcontains(jsonencode(s.Resource), "our-backups")] == [{
        Sid      = "Backups"
        Effect   = "Allow"
        Action   = ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
        Resource = ["arn:aws:s3:::our-backups", "arn:aws:s3:::our-backups/*"]
    }]
    error_message = "a role may do more to backups than make and read them"
  }
}

run "a_group_called_people_is_refused" {
  command = plan
  variables {
    groups = ["people"]
  }
  expect_failures = [var.groups]
}

run "a_role_is_for_one_service_account_of_this_cluster" {
  assert {
    condition = alltrue([for name, role in aws_iam_role.this : jsondecode(role.assume_role_policy).Statement == [{
      Effect    = "Allow"
      Principal = { Service = "pods.eks.amazonaws.com" }
      Action    = ["sts:AssumeRole", "sts:TagSession"]
      Condition = {
        ArnEquals = { "aws:SourceArn" = var.cluster_arn }
        StringEquals = {
          "aws:SourceAccount"                         = "123456789012"
          "aws:RequestTag/kubernetes-namespace"       = "thalweg"
          "aws:RequestTag/kubernetes-service-account" = aws_eks_pod_identity_association.this[name].service_account
        }
      }
    }]])
    error_message = "another cluster, namespace or service account gets the role"
  }
}

run "deleting_in_raw_is_refused" {
  command = plan
  variables {
    services = {
      runs = {
        service_account = "thalweg-runs"
        read            = ["raw"]
        write           = ["raw"]
        delete          = ["raw"]
        catalogue       = "none"
        queue           = false
      }
    }
  }
  expect_failures = [var.services]
}

run "a_group_named_as_a_pattern_is_refused" {
  command = plan
  variables {
    groups = ["hydro*"]
  }
  expect_failures = [var.groups]
}
