# CSI's node service on every client, over the volumed of the client. nomad job run node.nomad.hcl
# The paths that Nomad names are the host's; volumed mounts there, so the plugin needs none of them.
job "cvol-node" {
  datacenters = ["*"]
  type        = "system"

  group "node" {
    task "plugin" {
      driver = "docker"

      config {
        image   = "cvol:0.1.0"
        command = "cvol-csi"
        args = [
          "--endpoint", "unix:///csi/csi.sock",
          "--mode", "node",
          "--api", "unix:/run/cvol/api.sock",
        ]
        privileged = true
        mount {
          type   = "bind"
          source = "/run/cvol"
          target = "/run/cvol"
        }
      }

      csi_plugin {
        id        = "csi.cvol.io"
        type      = "node"
        mount_dir = "/csi"
        # As the host has them: volumed is not in this container.
        stage_publish_base_dir = "/opt/nomad/client/csi/node/csi.cvol.io"
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
