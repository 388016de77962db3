// Package runner plays a containerlab topology in Linux namespaces.
//
// Three kinds of processes take part, all of the same program:
//
//	up, exec, down ...   the command line; it ends when it has done its work
//	lab-keeper           stays in the background while the lab is up. It is the
//	                     first process of a PID namespace of its own (and of a
//	                     user namespace, if an ordinary user started it), so
//	                     that nothing of the lab outlives it
//	lab-node             one per node: the first process of the node's network,
//	                     mount, PID, IPC and UTS namespaces. It builds the
//	                     node's file system, runs its command, collects what
//	                     its processes leave behind, and executes commands on
//	                     request
//
// The keeper joins the nodes with veth pairs. What the processes need to find
// each other is in the lab's state directory, which only its owner may enter:
//
//	lab.json          what is played, and the keeper's process number
//	lock              locked by the keeper as long as it lives
//	keeper.log        what went wrong
//	keeper.sock       takes the request to stop
//	bin/ applets/     programs, bound into each node
//	nodes/NAME/       log (output of the node's command) and socket
package runner
