package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// ErrNoNode says that no node answers on a socket.
var ErrNoNode = errors.New("no node runs here")

// ErrRunning says that a node answers on a socket already.
var ErrRunning = errors.New("a node runs here already")

// dialTimeout bounds how long a node may take to accept a connection.
const dialTimeout = 5 * time.Second

// Listen makes the control socket at path, and its directory if need be, for
// this user alone. A socket on which no one answers any more is replaced; where
// a node answers the error is ErrRunning.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := checkDir(path); err != nil {
		return nil, err
	}
	ln, err := listenPrivate(path)
	if errors.Is(err, addrInUse) {
		conn, derr := dial(context.Background(), path)
		switch {
		case derr == nil:
			_ = conn.Close()
			return nil, fmt.Errorf("control socket %s: %w", path, ErrRunning)
		case !errors.Is(derr, ErrNoNode):
			return nil, derr // it may be a node that is slow to answer
		}
		if i, serr := os.Lstat(path); serr != nil || i.Mode().Type() != fs.ModeSocket && !oddSockets {
			return nil, fmt.Errorf("control socket %s: something else has this name", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
		ln, err = listenPrivate(path)
	}
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return ln, nil
}

// dial connects to the socket at path; the error is ErrNoNode only where it is
// sure that no one answers.
func dial(ctx context.Context, path string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, connRefused):
		return nil, fmt.Errorf("control socket %s: %w", path, ErrNoNode)
	case errors.Is(err, syscall.ENOTSOCK):
		return nil, fmt.Errorf("control socket %s: something else has this name", path)
	}
	return nil, fmt.Errorf("control socket: %w", err)
}
