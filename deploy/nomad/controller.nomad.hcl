# CSI's controller service, twice. nomad job run controller.nomad.hcl
# The clients run volumed (the Debian package, or node.nomad.hcl) and allow privileged containers.
job "cvol-controller" {
  datacenters = ["*"]
  type        = "service"

  group "controller" {
    count = 2

    constraint {
      distinct_hosts = true
    }

    task "plugin" {
      driver = "docker"

      config {
        image   = "cvol:0.1.0"
        command = "cvol-csi"
        args = [
          "--endpoint", "unix:///csi/csi.sock",
          "--mode", "controller",
          "--api", "unix:/run/cvol/api.sock",
        ]
        mount {
          type   = "bind"
          source = "/run/cvol"
          target = "/run/cvol"
        }
      }

      csi_plugin {
        id        = "csi.cvol.io"
        type      = "controller"
        mount_dir = "/csi"
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
