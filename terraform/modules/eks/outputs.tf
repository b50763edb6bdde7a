output "cluster_name" {
  description = "Name of the cluster; known once its nodes are there"
  value       = aws_eks_cluster.this.name
}

output "cluster_arn" {
  description = "ARN of the cluster"
  value       = aws_eks_cluster.this.arn
}

output "security_group_id" {
  description = "Security group of nodes and pods"
  value       = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
}

