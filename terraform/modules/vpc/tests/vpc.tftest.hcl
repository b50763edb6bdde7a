mock_provider "aws" {
  source = "../../mocks"
}

variables {
  name         = "test"
  cidr         = "10.0.0.0/16"
  zones        = ["us-east-1a", "us-east-1b", "us-east-1c"]
  nat_gateways = 3
  key_arn      = "arn:aws:kms:us-east-1:123456789012:key/1"
  log_days     = 30
}

run "a_nat_and_a_subnet_each_zone" {
  assert {
    condition     = length(aws_nat_gateway.this) == 3
    error_message = "expected a NAT gateway in each zone"
  }
  assert {
    condition = alltrue([for zone, route in aws_route.nat :
    route.nat_gateway_id == aws_nat_gateway.this[zone].id])
    error_message = "a zone leaves by the NAT of another"
  }
  assert {
    condition     = length(distinct(concat([for s in aws_subnet.private : s.cidr_block], [for s in aws_subnet.public : s.cidr_block]))) == 6
    error_message = "subnets overlap"
  }
  assert {
    condition     = aws_subnet.private["us-east-1c"].cidr_block == "10.0.64.0/19" && aws_subnet.public["us-east-1a"].cidr_block == "10.0.224.0/22"
    error_message = "subnets have moved: that would make all of them anew"
  }
  assert {
    condition     = alltrue([for s in aws_subnet.public : s.map_public_ip_on_launch != true])
    error_message = "machines get public addresses by themselves"
  }
}

run "one_nat_serves_all_zones" {
  variables {
    nat_gateways = 1
  }
  assert {
    condition = length(aws_nat_gateway.this) == 1 && alltrue([for route in aws_route.nat :
    route.nat_gateway_id == aws_nat_gateway.this["us-east-1a"].id])
    error_message = "a zone has no way out"
  }
}

run "s3_and_services_are_reached_inside" {
  assert {
    condition     = length(aws_vpc_endpoint.s3.route_table_ids) == 3
    error_message = "S3 is reached through the NAT from some zone"
  }
  assert {
    condition = alltrue([for service in ["ecr.api", "ecr.dkr", "logs", "secretsmanager", "sts"] :
    aws_vpc_endpoint.interface[service].private_dns_enabled])
    error_message = "a service is reached through the NAT"
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.endpoints.cidr_ipv4 == var.cidr
    error_message = "endpoints are open to more than the network"
  }
  assert {
    condition     = aws_flow_log.this.traffic_type == "ALL" && aws_cloudwatch_log_group.flow.kms_key_id == var.key_arn
    error_message = "the flow log is partial or not encrypted"
  }
}

run "one_zone_is_refused" {
  command = plan
  variables {
    zones        = ["us-east-1a"]
    nat_gateways = 1
  }
  expect_failures = [var.zones]
}

run "more_nats_than_zones_are_refused" {
  command = plan
  variables {
    nat_gateways = 4
  }
  expect_failures = [var.nat_gateways]
}

run "a_small_network_is_refused" {
  command = plan
  variables {
    cidr = "10.0.0.0/24"
  }
  expect_failures = [var.cidr]
}
