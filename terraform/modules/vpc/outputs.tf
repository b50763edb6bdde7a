output "vpc_id" {
  description = "Id of the network"
  value       = aws_vpc.this.id
}

output "private_subnet_ids" {
  description = "Id of the private subnet of each zone"
  value       = { for zone, subnet in aws_subnet.private : zone => subnet.id }
}
