package main

import (
	"github.com/spf13/cobra"
)

func completionCommand(a *app) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a script that completes p2pfs commands in a shell",
		Long:  "completion prints a script that completes p2pfs commands in bash, zsh, fish or\npowershell.",
		Example: `  p2pfs completion bash >/etc/bash_completion.d/p2pfs
  p2pfs completion zsh >"${fpath[1]}/_p2pfs"
  p2pfs completion fish >~/.config/fish/completions/p2pfs.fish`,
		ValidArgs:             shells,
		Args:                  arguments(1, 1),
		Annotations:           exits(),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
			return usagef("one of bash, zsh, fish, powershell", "completion: unknown shell %s", show(args[0]))
		},
	}
}
