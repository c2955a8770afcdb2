package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/p2pfs/p2pfs/volume"
)

// volumeOp is an operation on a volume of a few files.
type volumeOp struct {
	kind   string // put, rm, mv, read, list
	at, to string // names
	text   string // of a put
}

func (o volumeOp) String() string {
	return strings.TrimSpace(strings.Join([]string{o.kind, o.at, o.to, o.text}, " "))
}

// volumeAnswer is what came of it.
type volumeAnswer struct {
	missing bool   // there was nothing at that name
	text    string // of a read; the names of a list
}

// A volumeState is what is in the volume: "name=text" each, in order.
type volumeState = string

func stateOf(files map[string]string) volumeState {
	var out []string
	for name, text := range files {
		out = append(out, name+"="+text)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func filesOf(s volumeState) map[string]string {
	files := make(map[string]string)
	for _, f := range strings.Fields(s) {
		name, text, _ := strings.Cut(f, "=")
		files[name] = text
	}
	return files
}

// step says what an operation answers, and what is there then.
func (o volumeOp) step(s volumeState) (volumeAnswer, volumeState) {
	files := filesOf(s)
	text, ok := files[o.at]
	switch {
	case o.kind == "list":
		return volumeAnswer{text: strings.Join(slices.Sorted(maps.Keys(files)), " ")}, s
	case o.kind == "put":
		files[o.at] = o.text
	case !ok:
		return volumeAnswer{missing: true}, s
	case o.kind == "read":
		return volumeAnswer{text: text}, s
	case o.kind == "rm":
		delete(files, o.at)
	case o.kind == "mv" && o.at != o.to:
		files[o.to] = text
		delete(files, o.at)
	}
	return volumeAnswer{}, stateOf(files)
}

var volumeModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		answer, next := input.(volumeOp).step(state.(volumeState))
		return answer == output.(volumeAnswer), next
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%s: %+v", input, output) },
}

// do runs an operation on a volume.
func (o volumeOp) do(ctx context.Context, n *Node, name string) (a volumeAnswer, err error) {
	at, to := name+":"+o.at, name+":"+o.to
	switch o.kind {
	case "put":
		_, err = n.Put(ctx, PutRequest{Name: o.at, Mode: 0o644, Size: int64(len(o.text)), Target: name + ":"}, strings.NewReader(o.text), nil)
	case "rm":
		_, err = n.Remove(ctx, at)
	case "mv":
		err = n.Move(ctx, at, to)
	case "read":
		var b []byte
		b, _, err = get(ctx, n, at)
		a.text = string(b)
	case "list":
		var all []string
		err = n.List(ctx, name+":", false, func(i Item) error { all = append(all, i.Path); return nil })
		a.text = strings.Join(all, " ")
	}
	if errors.Is(err, volume.ErrNotFound) {
		return volumeAnswer{missing: true}, nil
	}
	return a, err
}

// randomOp gives one of the operations; the text of a put is never the same.
func randomOp(r *rand.Rand, names []string, text string) volumeOp {
	o := volumeOp{kind: []string{"put", "put", "rm", "mv", "read", "read", "list"}[r.IntN(7)]}
	if o.kind != "list" {
		o.at = names[r.IntN(len(names))]
	}
	switch o.kind {
	case "put":
		o.text = text
	case "mv":
		o.to = names[r.IntN(len(names))]
	}
	return o
}

// What several do at once in one home is as if they had done it one after the
// other.
func TestOperationsOnAVolumeAreLinearizable(t *testing.T) {
	const clients = 4
	rounds, each := 6, 25
	if !testing.Short() {
		rounds, each = 40, 40
	}
	for round := range rounds {
		m := newMemNet(t, uint64(530+round), 1, 0)
		n := m.nodes[0].homeOf(volume.Seed{1})
		n.home = HomeAt(t.TempDir())
		if _, err := n.VolumeCreate(t.Context(), "v"); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex // guards history
		var history []porcupine.Operation
		var wg sync.WaitGroup
		begun := time.Now()
		for client := range clients {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(round), uint64(client)))
				for i := range each {
					o := randomOp(r, []string{"a", "b", "c"}, strings.Repeat(fmt.Sprintf("%d.%d/", client, i), 1+r.IntN(2)*200))
					call := time.Since(begun)
					answer, err := o.do(t.Context(), n, "v")
					end := time.Since(begun)
					if err != nil {
						t.Errorf("%s: %v", o, err)
						return
					}
					mu.Lock()
					history = append(history, porcupine.Operation{ClientId: client, Input: o, Call: int64(call), Output: answer, Return: int64(end)})
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if result := porcupine.CheckOperationsTimeout(volumeModel, history, time.Minute); result != porcupine.Ok {
			slices.SortFunc(history, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
			for _, o := range history {
				t.Logf("%d: %6d to %6d µs: %.60s", o.ClientId, o.Call/1000, o.Return/1000, volumeModel.DescribeOperation(o.Input, o.Output))
			}
			t.Fatalf("no order of %d operations gives what they gave: %s", len(history), result)
		}
	}
}
