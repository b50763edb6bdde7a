mock_provider "aws" {
  source = "../../mocks"
}

variables {
  name               = "test"
  kubernetes_version = "1.33"
  subnet_ids         = ["subnet-1", "subnet-2"]
  public_cidrs       = []
  admin_role_arns    = ["arn:aws:iam::123456789012:role/administrators"]
  key_arn            = "arn:aws:kms:us-east-1:123456789012:key/1"
  log_days           = 30
  node_groups = {
    core    = { purpose = "core", instance_types = ["m7i.large"], spot = false, min = 2, max = 3, disk = 50 }
    users   = { purpose = "user", instance_types = ["r7i.large"], spot = false, min = 0, max = 2, disk = 50 }
    workers = { purpose = "worker", instance_types = ["m7i.large", "m6i.large"], spot = true, min = 0, max = 9, disk = 50 }
  }
}

run "closed_encrypted_and_logged" {
  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_private_access && !aws_eks_cluster.this.vpc_config[0].endpoint_public_access
    error_message = "the API is open to the Internet, or closed to the network"
  }
  assert {
    condition     = contains(aws_eks_cluster.this.encryption_config[0].resources, "secrets") && aws_eks_cluster.this.encryption_config[0].provider[0].key_arn == var.key_arn
    error_message = "Kubernetes secrets are not encrypted with the key"
  }
  assert {
    condition     = toset(aws_eks_cluster.this.enabled_cluster_log_types) == toset(["api", "audit", "authenticator", "controllerManager", "scheduler"])
    error_message = "a log is off"
  }
  assert {
    condition     = !aws_eks_cluster.this.access_config[0].bootstrap_cluster_creator_admin_permissions
    error_message = "whoever ran Terraform stays an administrator"
  }
}

run "workers_are_spot_and_scaled_to_zero" {
  assert {
    condition     = aws_eks_node_group.this["workers"].capacity_type == "SPOT" && aws_eks_node_group.this["workers"].scaling_config[0].min_size == 0
    error_message = "workers cost while nobody computes"
  }
  assert {
    condition     = aws_eks_node_group.this["core"].capacity_type == "ON_DEMAND" && aws_eks_node_group.this["core"].scaling_config[0].desired_size == 2
    error_message = "the hub itself can be taken away"
  }
  assert {
    condition     = length(aws_eks_node_group.this["core"].taint) == 0 && one(aws_eks_node_group.this["users"].taint).effect == "NO_SCHEDULE"
    error_message = "pods of the hub come onto nodes that go away, or onto none"
  }
}

run "pods_do_not_reach_the_role_of_their_node" {
  assert {
    condition = alltrue([for t in aws_launch_template.node :
    t.metadata_options[0].http_tokens == "required" && t.metadata_options[0].http_put_response_hop_limit == 1])
    error_message = "pods can ask for the credentials of their node"
  }
  assert {
    condition     = alltrue([for t in aws_launch_template.node : t.block_device_mappings[0].ebs[0].encrypted == "true"])
    error_message = "disks of nodes are not encrypted"
  }
}

run "add_ons" {
  assert {
    condition     = toset(concat(keys(aws_eks_addon.before_nodes), keys(aws_eks_addon.after_nodes))) == toset(["vpc-cni", "coredns", "kube-proxy", "aws-ebs-csi-driver", "aws-efs-csi-driver", "eks-pod-identity-agent", "metrics-server"])
    error_message = "an add-on is missing"
  }
  assert {
    condition     = jsondecode(aws_eks_addon.before_nodes["vpc-cni"].configuration_values).enableNetworkPolicy == "true"
    error_message = "network policies would be ignored"
  }
  assert {
    condition     = aws_eks_addon.after_nodes["aws-efs-csi-driver"].pod_identity_association != null && length(aws_eks_addon.after_nodes["aws-efs-csi-driver"].pod_identity_association) == 1
    error_message = "the driver of home folders has no role"
  }
}

run "the_whole_internet_is_refused" {
  command = plan
  variables {
    public_cidrs = ["0.0.0.0/0"]
  }
  expect_failures = [var.public_cidrs]
}

run "a_hub_on_spot_alone_is_refused" {
  command = plan
  variables {
    node_groups = {
      workers = { purpose = "worker", instance_types = ["m7i.large"], spot = true, min = 1, max = 9, disk = 50 }
    }
  }
  expect_failures = [var.node_groups]
}
