# PostgreSQL on the volume of volume.hcl. nomad job run postgres.nomad.hcl
job "postgres" {
  datacenters = ["*"]
  type        = "service"

  group "postgres" {
    count = 1

    volume "data" {
      type            = "csi"
      source          = "postgres"
      access_mode     = "single-node-writer"
      attachment_mode = "file-system"
    }

    task "postgres" {
      driver = "docker"

      config {
        image = "postgres:15"
      }

      env {
        PGDATA            = "/var/lib/postgresql/data/pgdata"
        POSTGRES_PASSWORD = "change-me"
      }

      volume_mount {
        volume      = "data"
        destination = "/var/lib/postgresql/data"
      }

      resources {
        cpu    = 500
        memory = 512
      }
    }
  }
}
