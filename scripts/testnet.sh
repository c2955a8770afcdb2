#!/usr/bin/env bash
# Many real p2pfs nodes on this machine, each a process with a home of its own,
# on loopback. Run it without arguments for what it can do.
#
# State lies under $P2PFS_TESTNET (default: .testnet in the repository):
#   node-I/home    the node's home, node-I/log what it says on stderr,
#   node-I/ready   the line it prints when it is ready, node-I/pid
#   client/        the home that `env` speaks of
#   flags          what every node is started with
#
# Nothing here needs more than bash 3.2, the POSIX tools and, to build, Go.
set -euo pipefail

usage() {
	cat <<'USAGE'
usage: scripts/testnet.sh COMMAND

  up N [node flags]   make nodes 1 to N in one private network and start them
  env                 print export lines for a client home in that network:
                      eval "$(scripts/testnet.sh env)"
  kill I...           end nodes at once (SIGKILL)
  stop I...           end nodes in order
  start I...          start nodes again
  wipe I...           kill nodes and delete their data: gone for good
  add N               N more nodes join, invited by one that is up
  status [--json]     a line a node: number, up or down, PID, peers, shards, bytes held
  down                stop all nodes, delete the state
  demo                store a real file, kill 12 of 20 nodes, get it back, let 12
                      new ones join and watch them make up for the lost

State is kept under $P2PFS_TESTNET (default: .testnet in the repository).
$P2PFS_BIN names a binary to use instead of building one.
USAGE
}

root=$(cd "$(dirname "$0")/.." && pwd -P)
dir=${P2PFS_TESTNET:-$root/.testnet}
case $dir in /*) ;; *) dir=$PWD/$dir ;; esac
bin=${P2PFS_BIN:-$root/bin/p2pfs}
case $bin in /*) ;; *) bin=$PWD/$bin ;; esac
wait_s=${P2PFS_TESTNET_WAIT:-60} # longest wait for nodes, in seconds
parallel=8                       # processes started side by side
unset P2PFS_HOME

# All nodes are on this machine: no router to ask, nobody to be found by.
node_flags=(--no-mdns --no-portmap)

die() {
	echo "testnet: $*" >&2
	exit 1
}

say() { echo "testnet: $*" >&2; }

# build makes the binary; where there is one and no Go, that one is used.
build() {
	[ -z "${P2PFS_BIN:-}" ] || return 0
	if command -v "${GO:-go}" >/dev/null 2>&1; then
		make -s -C "$root" build >&2
	elif [ ! -x "$bin" ]; then
		die "no $bin, and no Go to build it: see https://go.dev/dl"
	fi
}

need_bin() { [ -x "$bin" ] || build; }

need_net() { [ -e "$dir/p2pfs-testnet" ] || die "no testnet in $dir: scripts/testnet.sh up 5"; }

p2pfs() { # I ARGS...: the command on the home of node I
	local i=$1
	shift
	"$bin" --home "$dir/node-$i/home" "$@"
}

# numbers prints the numbers of all nodes, in order.
numbers() {
	local i=1
	while [ -d "$dir/node-$i" ]; do
		echo "$i"
		i=$((i + 1))
	done
}

# check_numbers refuses what is not the number of a node.
check_numbers() {
	[ $# -gt 0 ] || die "which nodes? give their numbers"
	local i
	for i in "$@"; do
		case $i in '' | *[!0-9]* | 0*) die "not a node's number: $i" ;; esac
		[ -d "$dir/node-$i" ] || die "no node $i"
	done
}

# pid prints the PID of node I where it runs. The process must name the home,
# for a PID may have gone to another process since.
pid() {
	local p
	p=$(cat "$dir/node-$1/pid" 2>/dev/null) || return 1
	[ -n "$p" ] || return 1
	case $(ps -ww -o args= -p "$p" 2>/dev/null) in
	*"$dir/node-$1/home"*) echo "$p" ;;
	*) return 1 ;;
	esac
}

first_up() {
	local i
	for i in $(numbers); do
		if pid "$i" >/dev/null && [ -s "$dir/node-$i/ready" ]; then
			echo "$i"
			return
		fi
	done
	return 1
}

# field prints a number or string of the JSON object on stdin.
field() {
	tr -d '\n' | sed -n 's/.*"'"$1"'"[[:space:]]*:[[:space:]]*"\{0,1\}\([^",}[:space:]]*\).*/\1/p'
}

json_string() { # a path may hold quotes and backslashes
	printf '"%s"' "$(printf %s "$1" | sed 's/\\/\\\\/g; s/"/\\"/g')"
}

quote() { printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }

# each runs "$1 I" for every further argument I, some side by side, and fails
# if one of them fails.
each() {
	local what=$1 i n=0 failed=0 pids="" p
	shift
	for i in "$@"; do
		"$what" "$i" &
		pids="$pids $!"
		n=$((n + 1))
		if [ $((n % parallel)) = 0 ]; then
			for p in $pids; do wait "$p" || failed=1; done
			pids=""
		fi
	done
	for p in $pids; do wait "$p" || failed=1; done
	return $failed
}

# launch starts node I and does not wait for it.
launch() {
	local d=$dir/node-$1 flags=() line
	if pid "$1" >/dev/null; then
		say "node $1 is up already"
		return
	fi
	[ ! -e "$d/wiped" ] || die "node $1 was wiped; add a new one"
	while IFS= read -r line; do flags+=("$line"); done <"$dir/flags"
	: >"$d/ready"
	(
		# A process group of its own: ^C at this terminal is not for the nodes.
		set -m
		exec nohup "$bin" --home "$d/home" node ${flags[@]+"${flags[@]}"} \
			</dev/null >>"$d/ready" 2>>"$d/log" &
		echo $! >"$d/pid"
	)
}

# ready waits until node I has said that it is.
ready() {
	local d=$dir/node-$1 end=$((SECONDS + wait_s))
	until [ -s "$d/ready" ]; do
		if ! kill -0 "$(cat "$d/pid")" 2>/dev/null && [ ! -s "$d/ready" ]; then
			tail -n 5 "$d/log" >&2
			die "node $1 ended before it was ready; its log: $d/log"
		fi
		[ $SECONDS -lt $end ] || die "node $1 not ready after ${wait_s}s; its log: $d/log"
		sleep 0.05
	done
}

peers_of() { p2pfs "$1" status --json 2>/dev/null | field peers; }

# acquainted waits until node I knows the peers of $want.
acquainted() {
	local n end=$((SECONDS + wait_s))
	while :; do
		n=$(peers_of "$1")
		[ "${n:-0}" -lt "$want" ] || return 0
		[ $SECONDS -lt $end ] || die "node $1 has ${n:-no} peers after ${wait_s}s, of $want"
		sleep 0.1
	done
}

# settle waits until all nodes given are ready and know the others that are up.
# In large networks a node need not know everybody: 20 are a full neighbourhood.
settle() {
	local i up=0
	each ready "$@"
	for i in $(numbers); do ! pid "$i" >/dev/null || up=$((up + 1)); done
	want=$((up - 1))
	[ $want -le 20 ] || want=20
	each acquainted "$@"
}

# Each node has a port for good, so that others find it after a restart: from
# below the range out of which systems give ports to whoever asks for any.
# taken says whether something listens at a port.
taken() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# give_ports gives a port to each node I, in node-I/port.
give_ports() {
	local i port
	port=$(cat "$dir/port" 2>/dev/null) || port=$((12000 + RANDOM % 18000))
	for i in "$@"; do
		mkdir -p "$dir/node-$i"
		port=$((port + 1))
		while taken $port; do port=$((port + 1)); done
		echo $port >"$dir/node-$i/port"
	done
	echo $port >"$dir/port"
}

# listen sets the array of that name to the flags for node I.
listen() {
	local port
	port=$(cat "$dir/node-$1/port")
	listen=(--listen "/ip4/127.0.0.1/tcp/$port" --listen "/ip4/127.0.0.1/udp/$port/quic-v1")
}

join() {
	listen "$1"
	p2pfs "$1" join "$(cat "$dir/invite")" "${listen[@]}" >"$dir/node-$1/join" 2>&1 || {
		cat "$dir/node-$1/join" >&2
		die "node $1 could not join"
	}
}

count() { # a positive number
	case ${1:-} in '' | *[!0-9]* | 0*) die "how many nodes? got '${1:-}'" ;; esac
}

cmd_up() {
	count "${1:-}"
	local n=$1 others
	shift
	[ ! -e "$dir/p2pfs-testnet" ] || die "there is a testnet in $dir: scripts/testnet.sh down"
	if [ -e "$dir" ] && [ -n "$(ls -A "$dir")" ]; then
		die "$dir holds something else; set P2PFS_TESTNET to another directory"
	fi
	build
	mkdir -p "$dir/node-1"
	chmod 700 "$dir"
	touch "$dir/p2pfs-testnet"
	printf '%s\n' "${node_flags[@]}" "$@" >"$dir/flags"
	# shellcheck disable=SC2046 # numbers
	give_ports $(seq 1 "$n")
	listen 1
	p2pfs 1 init "${listen[@]}" >"$dir/node-1/init" 2>"$dir/node-1/log" || {
		cat "$dir/node-1/log" >&2
		die "node 1 could not make a network"
	}
	launch 1
	ready 1
	p2pfs 1 invite >"$dir/invite"
	others=$(seq 2 "$n")
	# shellcheck disable=SC2086 # numbers
	{
		each join $others
		each launch $others
		settle 1 $others
	}
	say "$n nodes up in $dir"
}

cmd_add() {
	count "${1:-}"
	need_net
	need_bin
	local by last new
	by=$(first_up) || die "no node is up to invite more: scripts/testnet.sh start I"
	last=$(numbers | tail -n 1)
	p2pfs "$by" invite >"$dir/invite"
	new=$(seq $((last + 1)) $((last + $1)))
	# shellcheck disable=SC2086 # numbers
	{
		give_ports $new
		each join $new
		each launch $new
		settle $new
	}
	say "nodes $((last + 1)) to $((last + $1)) joined, invited by node $by"
}

cmd_env() {
	need_net
	need_bin
	local by home=$dir/client
	if [ ! -e "$dir/client-joined" ]; then
		by=$(first_up) || die "no node is up to invite a client: scripts/testnet.sh start I"
		rm -rf "$home"
		"$bin" --home "$home" join "$(p2pfs "$by" invite)" \
			--listen /ip4/127.0.0.1/tcp/0 --listen /ip4/127.0.0.1/udp/0/quic-v1 >"$dir/client-log" 2>&1 || {
			cat "$dir/client-log" >&2
			die "the client could not join"
		}
		touch "$dir/client-joined"
	fi
	echo "export P2PFS_HOME=$(quote "$home")"
	echo "export PATH=$(quote "$(dirname "$bin")"):\"\$PATH\""
}

# gone waits until node I has ended.
gone() {
	local end=$((SECONDS + $2))
	while pid "$1" >/dev/null; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.05
	done
	rm -f "$dir/node-$1/pid" "$dir/node-$1/ready"
}

kill_node() {
	local p
	if p=$(pid "$1"); then kill -KILL "$p" 2>/dev/null || true; fi
	gone "$1" 10 || die "node $1 did not end"
}

stop_node() {
	local p
	if p=$(pid "$1"); then kill -TERM "$p" 2>/dev/null || true; fi
	gone "$1" 20 || {
		say "node $1 did not end in 20s, killing it"
		kill_node "$1"
	}
}

wipe_node() {
	kill_node "$1"
	rm -rf "${dir:?}/node-$1/home"
	touch "$dir/node-$1/wiped"
}

cmd_nodes() { # WHAT I...
	need_net
	local what=$1
	shift
	check_numbers "$@"
	each "$what" "$@"
}

cmd_start() {
	need_net
	need_bin
	check_numbers "$@"
	each launch "$@"
	each ready "$@"
}

# query leaves the status of node I in node-I/status, empty where it is down.
query() {
	: >"$dir/node-$1/status"
	pid "$1" >/dev/null || return 0
	[ -s "$dir/node-$1/ready" ] || return 0 # starting: the command would start a node of its own
	p2pfs "$1" status --json >"$dir/node-$1/status" 2>/dev/null || true
}

cmd_status() {
	need_net
	need_bin
	local json= i p s id peers shards held sep=
	case ${1:-} in '') ;; --json) json=1 ;; *) die "status takes --json, not $1" ;; esac
	# shellcheck disable=SC2046 # numbers
	each query $(numbers)
	if [ -n "$json" ]; then printf '['; else
		printf '%4s  %-5s %8s %6s %8s %15s\n' node state pid peers shards held_bytes
	fi
	for i in $(numbers); do
		s=$dir/node-$i/status
		id=$(field id <"$s")
		[ -z "$id" ] || echo "$id" >"$dir/node-$i/id"
		peers=$(field peers <"$s") shards=$(field shards <"$s") held=$(field held_bytes <"$s")
		p=$(pid "$i") || p=
		if [ -n "$json" ]; then
			[ -n "$id" ] || id=$(cat "$dir/node-$i/id" 2>/dev/null || true)
			printf '%s\n{"node":%s,"up":%s,"pid":%s,"home":%s,"id":"%s","peers":%s,"shards":%s,"held_bytes":%s}' \
				"$sep" "$i" "$([ -n "$p" ] && echo true || echo false)" "${p:-0}" \
				"$(json_string "$dir/node-$i/home")" "$id" "${peers:-0}" "${shards:-0}" "${held:-0}"
			sep=,
		else
			local state=down
			[ -z "$p" ] || state=up
			[ ! -e "$dir/node-$i/wiped" ] || state=wiped
			printf '%4s  %-5s %8s %6s %8s %15s\n' "$i" "$state" "${p:--}" "${peers:--}" "${shards:--}" "${held:--}"
		fi
	done
	[ -z "$json" ] || printf '\n]\n'
}

cmd_down() {
	[ -e "$dir" ] || return 0
	need_net
	# shellcheck disable=SC2046 # numbers
	each stop_node $(numbers)
	rm -rf "$dir"
}

mib() { echo $(($(wc -c <"$1") / 1048576)); }

# real_file writes the first 512 MiB of a tar of the Go tree, filled up with
# random bytes.
real_file() {
	local tree
	tree=$("${GO:-go}" env GOROOT 2>/dev/null) || tree=$root
	(
		set +o pipefail
		{
			tar -cf - -C "$tree" . 2>/dev/null || true
			cat /dev/urandom 2>/dev/null || true
		} | head -c $((512 << 20)) >"$1"
	)
}

# further prints in words how many further losses are survived.
further() {
	case $1 in
	-*) echo "not restorable now" ;;
	0) echo "no further loss survived" ;;
	1) echo "any 1 further loss survived" ;;
	*) echo "any $1 further losses survived" ;;
	esac
}

# health_of prints a number of the JSON object that `health` prints, of that
# part of it which is about all packs.
health_of() { sed 's/"levels".*"repairs"/"repairs"/' <<<"$1" | field "$2"; }

# recover watches node I until a link survives $3 further losses, and tells of
# every change.
recover() {
	local i=$1 link=$2 want=$3 begun=$SECONDS end=$((SECONDS + 3 * wait_s)) h now told=
	while :; do
		h=$(p2pfs "$i" health --json "$link") || die "no health of the file"
		now=$(health_of "$h" survives)
		if [ "$now" != "$told" ]; then
			printf '   %3ds  %s (the weakest pack has %s of %s shards)\n' $((SECONDS - begun)) "$(further "$now")" \
				"$(health_of "$h" live)" "$(health_of "$h" n)"
			told=$now
		fi
		[ "$now" -lt "$want" ] || return 0
		[ $SECONDS -lt $end ] || die "after $((SECONDS - begun))s still not $(further "$want")"
		sleep 0.5
	done
}

demo_end() {
	local code=$?
	trap - EXIT
	trap '' INT TERM HUP # once is enough
	if [ "$code" != 0 ] && [ -e "$dir/p2pfs-testnet" ]; then
		echo
		echo "The demo ended early (exit code $code). The last words of the nodes:"
		for i in $(numbers); do tail -n 2 "$dir/node-$i/log" 2>/dev/null | sed "s/^/  node $i: /"; done
	fi
	(cmd_down) || true
	exit "$code"
}

cmd_demo() {
	local n=20 lost=12 free start=$SECONDS t link mid new
	[ ! -e "$dir" ] || [ -z "$(ls -A "$dir")" ] || die "$dir is in use: scripts/testnet.sh down"
	mkdir -p "$dir"
	free=$(df -Pk "$dir" | awk 'NR == 2 { print int($4 / 1048576) }')
	[ "$free" -ge 5 ] || die "the demo needs 5 GiB of disk, and there are $free under $dir"
	rmdir "$dir"
	trap demo_end EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP

	cat <<TEXT

p2pfs keeps files on many machines, none of which has to stay. This demo
plays $n machines on yours: $n processes, each with a disk area, an identity
and network connections of its own.

1. Start $n nodes in a private network.
TEXT
	t=$SECONDS
	cmd_up $n --probe 1s --grace 5s # real networks ask less often, and wait for an hour
	echo "   $n nodes are up and know each other ($((SECONDS - t))s)."

	echo
	echo "2. Make a real file: the Go source tree as a tar, filled up to 512 MiB."
	mkdir "$dir/files"
	real_file "$dir/files/go-tree.tar"
	echo "   $(mib "$dir/files/go-tree.tar") MiB in $dir/files/go-tree.tar"

	cat <<TEXT

3. Store it from node 1. The file is cut and encrypted there; every piece is
   coded into 20 shards, each kept by another node, any 8 of which are enough.

   \$ p2pfs put go-tree.tar
TEXT
	t=$SECONDS
	link=$(p2pfs 1 put "$dir/files/go-tree.tar")
	echo "   $link"
	echo "   Stored on $n nodes in $((SECONDS - t))s. This link is all that is needed to read the"
	echo "   file, and without it nobody can, the nodes that keep it included."

	mid=$((lost + 1))
	cat <<TEXT

4. Disaster: $lost of the $n machines die at once, node 1, where the file came
   from, among them. (SIGKILL: no goodbye, no time to copy anything.)

   \$ scripts/testnet.sh kill 1 2 ... $lost
TEXT
	# shellcheck disable=SC2046 # numbers
	cmd_nodes kill_node $(seq 1 $lost)
	echo
	cmd_status | sed 's/^/   /'

	cat <<TEXT

5. Get the file back, on node $n.

   \$ p2pfs get p2pfs:... -o copy.tar
TEXT
	t=$SECONDS
	p2pfs $n get "$link" -o "$dir/files/copy.tar"
	echo "   $(mib "$dir/files/copy.tar") MiB came back in $((SECONDS - t))s, from the $((n - lost)) nodes that are left."

	echo
	echo "6. Compare the two, byte by byte."
	cmp "$dir/files/go-tree.tar" "$dir/files/copy.tar" || die "the copy differs"
	echo "   They are identical."

	cat <<TEXT

7. Lose one machine more than was promised, node $mid, and ask again.

TEXT
	cmd_nodes kill_node $mid
	if p2pfs $n get "$link" -o "$dir/files/none.tar" 2>&1 | sed 's/^/   /'; then
		die "a get that cannot succeed ended well"
	fi
	[ ! -e "$dir/files/none.tar" ] || die "there is an output file although too few shards are left"
	cmd_start $mid
	cat <<TEXT

   7 shards are left where 8 are needed. p2pfs says so, and there is no half
   file under the name: what it has read waits beside it for the next get.
   Node $mid is started again: absence is not loss, its shards count.

8. Let $lost new machines join. Nobody tells them, or anybody, what to do: the
   holders that are left know what is missing, restore it and place it on the
   new ones, without the link, without a key, without the node it came from.

   \$ scripts/testnet.sh add $lost
   \$ p2pfs health p2pfs:...
TEXT
	t=$SECONDS
	cmd_add $lost
	recover $n "$link" $lost
	new=$((n + lost))
	cat <<TEXT
   All of it is back, $((SECONDS - t))s after the first of the new nodes was asked to join.

9. Kill the $((n - lost)) that are left of the first $n: no machine is there any more that
   was there when the file was stored. Get it, on node $new, and compare.

TEXT
	# shellcheck disable=SC2046 # numbers
	cmd_nodes kill_node $(seq $mid $n)
	rm "$dir/files/copy.tar"
	t=$SECONDS
	p2pfs $new get "$link" -o "$dir/files/copy.tar"
	cmp "$dir/files/go-tree.tar" "$dir/files/copy.tar" || die "the copy differs"
	cat <<TEXT
   $(mib "$dir/files/copy.tar") MiB came back in $((SECONDS - t))s, from $lost machines of which none had been there.
   They are identical.

That was all of it, in $((SECONDS - start))s. To play with such a network yourself:

   scripts/testnet.sh up 20
   eval "\$(scripts/testnet.sh env)"
   p2pfs put README.md
   scripts/testnet.sh down

Stopping the nodes and deleting their data now.
TEXT
}

command=${1:-help}
[ $# = 0 ] || shift
case $command in
up) cmd_up "$@" ;;
env) cmd_env ;;
kill) cmd_nodes kill_node "$@" ;;
stop) cmd_nodes stop_node "$@" ;;
start) cmd_start "$@" ;;
wipe) cmd_nodes wipe_node "$@" ;;
add) cmd_add "$@" ;;
status) cmd_status "$@" ;;
down) cmd_down ;;
demo) cmd_demo ;;
help | -h | --help) usage ;;
*)
	usage >&2
	exit 2
	;;
esac
