package node

import "context"

// Health says how safe a source is; with "", what this node holds.
func (n *Node) Health(context.Context, string) (Health, error) {
	return Health{}, notPart("health")
}

// Repair checks every shard of a source now and rebuilds what is missing.
func (n *Node) Repair(context.Context, string, func(RepairProgress)) (RepairResult, error) {
	return RepairResult{}, notPart("repair")
}

// Leave hands all shards over to other peers; afterwards Run returns nil.
func (n *Node) Leave(context.Context, func(LeaveProgress)) (LeaveResult, error) {
	return LeaveResult{}, notPart("leave")
}

// Remove deletes what this home has put under a source.
func (n *Node) Remove(context.Context, string) (RemoveResult, error) {
	return RemoveResult{}, notPart("remove")
}

// Link gives a link to a source; with verify one that gives the right to
// check and repair it, and to read nothing.
func (n *Node) Link(context.Context, string, bool) (string, error) {
	return "", notPart("link")
}

// upkeep says what has been done to keep packs at their redundancy: nothing
// does, in this build.
func (n *Node) upkeep() upkeep { return upkeep{} }

func notPart(what string) error { return fail(Failed, "", "%s is not part of this build", what) }
