// SPDX-License-Identifier: Apache-2.0

// Package accessapi serves the API subresources.botbottle.dev in the manager: what
// users do with a Bottle, beyond reading and writing it. kube-apiserver forwards
// their requests here and has authorised them already; this server authorises them
// once more, by SubjectAccessReview.
//
// What needs the machine (exec, attach, log, proof) goes on to the agent of the
// Bottle's node, by mutual TLS. What an agent answers is not trusted: it is bounded
// and cleaned before a user sees it.
//
// The package stores nothing, and it runs nothing on any node.
package accessapi
