package node

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/member"
	"github.com/p2pfs/p2pfs/volume"
)

// Home is where a node lives.
type Home struct {
	Config  string // keys and config.toml
	Data    string // the store
	Runtime string // the control socket
}

// HomeAt is a home with everything in one directory.
func HomeAt(dir string) Home { return Home{Config: dir, Data: dir, Runtime: dir} }

// DefaultHome is the user's home by the XDG base directory specification.
func DefaultHome() (Home, error) {
	user, err := os.UserHomeDir()
	if err != nil {
		return Home{}, fmt.Errorf("find the home directory: %w", err)
	}
	dir := func(env, fallback string) string {
		if v := os.Getenv(env); filepath.IsAbs(v) {
			return filepath.Join(v, "p2pfs")
		}
		return fallback
	}
	data := dir("XDG_DATA_HOME", filepath.Join(user, ".local", "share", "p2pfs"))
	return Home{
		Config:  dir("XDG_CONFIG_HOME", filepath.Join(user, ".config", "p2pfs")),
		Data:    data,
		Runtime: dir("XDG_RUNTIME_DIR", data),
	}, nil
}

// ConfigFile is where the settings are.
func (h Home) ConfigFile() string { return filepath.Join(h.Config, "config.toml") }

func (h Home) credentialsFile() string { return filepath.Join(h.Config, "credentials") }
func (h Home) networkKeyFile() string  { return filepath.Join(h.Config, "network.key") }
func (h Home) seedFile() string        { return filepath.Join(h.Config, "volume.seed") }
func (h Home) storeDir() string        { return filepath.Join(h.Data, "store") }

// Exists tells whether a home is there.
func (h Home) Exists() bool {
	_, err := os.Stat(h.credentialsFile())
	return err == nil
}

// Socket is the path of the control socket. A Unix socket's path has at most
// 108 bytes (104 on some systems), so a home that lies deep has its socket in
// a short directory of the user's own.
func (h Home) Socket() string {
	path := filepath.Join(h.Runtime, "p2pfs.sock")
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if len(path) <= 100 {
		return path
	}
	name := digest.Of([]byte(path))
	return filepath.Join(os.TempDir(), "p2pfs-"+strconv.Itoa(os.Getuid()), hex.EncodeToString(name[:8])+".sock")
}

// Created describes a home just made.
type Created struct {
	PeerID  string
	Network string   // hex
	Files   []string // to back up
}

// Init makes a home and a new network, private unless open.
func Init(h Home, open bool) (*Created, error) {
	self, err := newKey()
	if err != nil {
		return nil, err
	}
	var c *member.Credentials
	var network ed25519.PrivateKey
	if open {
		c = &member.Credentials{Open: true, Network: member.OpenNetwork(), Self: self}
	} else if c, network, err = member.NewCredentials(self, time.Now()); err != nil {
		return nil, err
	}
	return h.create(c, network)
}

func newKey() (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

// vacant refuses to make a home where one is, or where one has left secrets
// that nothing else can restore.
func (h Home) vacant() error {
	if h.Exists() {
		return fail(Failed, "use another --home, or remove it if nothing in it is needed", "%s is a home already", h.Config)
	}
	for _, f := range []string{h.seedFile(), h.networkKeyFile()} {
		if _, err := os.Lstat(f); !errors.Is(err, fs.ErrNotExist) {
			return fail(Failed, fmt.Sprintf("restore %s from your copy, or move them away", h.credentialsFile()),
				"secrets of an earlier home are in %s: %s", h.Config, filepath.Base(f))
		}
	}
	return nil
}

// makeDirs makes the directories of a home, which nobody else may look into,
// whoever made them.
func (h Home) makeDirs() error {
	for _, dir := range []string{h.Config, h.Data} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
			if err := os.Chmod(dir, 0o700); err != nil {
				return err
			}
		}
	}
	return nil
}

// create writes the files of a new home, the credentials last: they make it
// one.
func (h Home) create(c *member.Credentials, network ed25519.PrivateKey) (*Created, error) {
	if err := h.vacant(); err != nil {
		return nil, err
	}
	if err := h.makeDirs(); err != nil {
		return nil, err
	}
	var seed volume.Seed
	rand.Read(seed[:]) // never fails
	files := []string{h.credentialsFile(), h.seedFile()}
	if err := writeSecret(h.seedFile(), []byte(hex.EncodeToString(seed[:])+"\n")); err != nil {
		return nil, err
	}
	if network != nil {
		files = append(files, h.networkKeyFile())
		if err := writeSecret(h.networkKeyFile(), []byte(hex.EncodeToString(network.Seed())+"\n")); err != nil {
			return nil, err
		}
	}
	if err := h.saveCredentials(c); err != nil {
		return nil, err
	}
	id, err := peerID(member.KeyOf(c.Self))
	if err != nil {
		return nil, err
	}
	return &Created{PeerID: id.String(), Network: networkOf(c).String(), Files: files}, nil
}

func networkOf(c *member.Credentials) member.Network {
	if c.Open {
		return c.Network
	}
	return member.NetworkOf(c.Key)
}

func (h Home) saveCredentials(c *member.Credentials) error {
	return writeSecret(h.credentialsFile(), c.Encode())
}

// credentials reads who this home is.
func (h Home) credentials() (*member.Credentials, error) {
	b, err := os.ReadFile(h.credentialsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoHome(h)
	}
	if err != nil {
		return nil, err
	}
	c, err := member.DecodeCredentials(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", h.credentialsFile(), err)
	}
	return c, nil
}

// ErrNoHome is the error of a home that is not there.
func ErrNoHome(h Home) error {
	return fail(Failed, "make one with 'p2pfs init', or with 'p2pfs join INVITE' in a network that exists", "no home in %s", h.Config)
}

// seed reads the write seed of the home's own volume.
func (h Home) seed() (volume.Seed, error) {
	var s volume.Seed
	b, err := readHex(h.seedFile(), len(s))
	copy(s[:], b)
	return s, err
}

// networkKey reads the founder's private key of the network, nil on other
// members' homes.
func (h Home) networkKey() (ed25519.PrivateKey, error) {
	b, err := readHex(h.networkKeyFile(), ed25519.SeedSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(b), nil
}

func readHex(path string, n int) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(out) != n {
		return nil, fmt.Errorf("read %s: want %d hexadecimal digits", path, 2*n)
	}
	return out, nil
}

// writeSecret replaces a file that only its owner may read, whole or not at
// all, and lasting when it returns.
func writeSecret(path string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err = tmp.Write(b); err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the renaming of files in a directory last. Not everywhere can
// a directory be synced.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err == nil {
		err = d.Sync()
		d.Close()
	}
	if runtime.GOOS == "windows" || errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// peerID is the libp2p peer ID of a key.
func peerID(k member.Key) (peer.ID, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(k[:])
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(pub)
}

// MakeInvite makes an invite to the network of a home whose node need not
// run; listen are the addresses at which it will.
func MakeInvite(h Home, life time.Duration, listen []string) (string, error) {
	c, err := h.credentials()
	if err != nil {
		return "", err
	}
	m, err := member.New(c, nil)
	if err != nil {
		return "", err
	}
	id, err := peerID(m.Self())
	if err != nil {
		return "", err
	}
	addrs, err := dialable(listen, id)
	if err != nil {
		return "", err
	}
	in, err := m.Invite(life, addrs)
	if err != nil {
		return "", err
	}
	return in.String(), nil
}

// dialable turns listen addresses into such as others can dial: unspecified
// ones become those of this machine's interfaces, loopback only where there is
// nothing else.
func dialable(listen []string, self peer.ID) ([]string, error) {
	var addrs []ma.Multiaddr
	for _, l := range listen {
		a, err := ma.NewMultiaddr(l)
		if err != nil {
			return nil, fail(Usage, "an address looks like /ip4/0.0.0.0/tcp/4017", "listen address %q: %w", l, err)
		}
		addrs = append(addrs, a)
	}
	ifaces, err := manet.InterfaceMultiaddrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of this machine: %w", err)
	}
	var far, near []string
	for _, a := range addrs {
		resolved, err := manet.ResolveUnspecifiedAddress(a, ifaces)
		if err != nil {
			resolved = []ma.Multiaddr{a}
		}
		for _, r := range resolved {
			if manet.IsIP6LinkLocal(r) {
				continue
			}
			text := r.String() + "/p2p/" + self.String()
			if manet.IsIPLoopback(r) {
				near = append(near, text)
			} else {
				far = append(far, text)
			}
		}
	}
	if len(far) == 0 {
		far = near
	}
	return far[:min(len(far), member.MaxAddrs)], nil
}

// SecretFiles are the files of the home to back up: whoever loses them loses
// rights, whoever else has them has those.
func (h Home) SecretFiles() []string {
	var out []string
	for _, f := range []string{h.credentialsFile(), h.seedFile(), h.networkKeyFile()} {
		if _, err := os.Stat(f); err == nil {
			out = append(out, f)
		}
	}
	return out
}
