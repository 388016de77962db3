package daemon

import (
	"context"
	"log/slog"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// Supervise tells the service manager, if there is one (sd_notify(3)), that
// the daemon is up, and when ctx ends that it is stopping. Where the manager has
// a watchdog it is fed for as long as alive returns, which is called at half of
// its interval: a control plane that stands still is started again. It returns
// when ctx ends.
func Supervise(ctx context.Context, log *slog.Logger, alive func()) {
	notify := func(state string) {
		if _, err := sd.SdNotify(false, state); err != nil {
			log.Warn("the service manager was not told", "state", state, "err", err)
		}
	}
	notify(sd.SdNotifyReady)
	defer notify(sd.SdNotifyStopping)
	every, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the watchdog of the service manager is not fed", "err", err)
	}
	if err != nil || every == 0 {
		<-ctx.Done()
		return
	}
	for tick := time.NewTicker(every / 2); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		done := make(chan struct{})
		go func() {
			alive()
			close(done)
		}()
		select {
		case <-done:
			notify(sd.SdNotifyWatchdog)
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}
