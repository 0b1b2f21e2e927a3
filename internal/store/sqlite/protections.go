package sqlite

import (
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/curfew-jit/curfew/internal/access"
)

// PutProtection implements broker.Tx. An insert is stored as version 1, a change as the next one.
func (t *tx) PutProtection(p access.Protection) error {
	id, version := p.VM.ID, p.Version
	if id == "" {
		return access.Errorf(access.CodeInternal, "a protection without a machine cannot be stored")
	}
	p.Version++
	doc, err := encode("protection of", id, p)
	if err != nil {
		return err
	}
	key := fold(id)
	if version == 0 {
		if _, err := t.exec(qInsertProtection, key, string(p.State), p.Version, doc); isUnique(err) {
			return exists("protection of", id)
		} else if err != nil {
			return t.unexpected(err)
		}
		return t.setProtectionPlaces(key, p.Places)
	}
	_, err = t.returning(qUpdateProtection, string(p.State), p.Version, doc, key, version)
	if errors.Is(err, sql.ErrNoRows) {
		return t.refusal("protection of", key, qProtectionState, version, string(p.State), nil)
	}
	if err != nil {
		return t.unexpected(err)
	}
	return t.setProtectionPlaces(key, p.Places)
}

func (t *tx) setProtectionPlaces(key string, places []access.Place) error {
	return t.unexpected(t.setKeys(key, placeKeys(places), qProtectionPlaces, qDeleteProtectionPlaces, qInsertProtectionPlace))
}

func scanProtection(row scanner) (access.Protection, error) {
	var key, state, doc string
	var version int64
	if err := row.Scan(&key, &state, &version, &doc); err != nil {
		return access.Protection{}, err
	}
	var p access.Protection
	if err := json.Unmarshal([]byte(doc), &p); err != nil {
		return p, damaged("protection of", key, "its document is not readable", err)
	}
	if fold(p.VM.ID) != key || string(p.State) != state || p.Version != version {
		return p, damaged("protection of", key, "its columns and its document differ", nil)
	}
	return p, nil
}

// Protection implements broker.Tx; one that is off is returned as well.
func (t *tx) Protection(vmID string) (access.Protection, error) {
	p, err := scanProtection(t.row(qProtection, fold(vmID)))
	if errors.Is(err, sql.ErrNoRows) {
		return p, notFound("protection of", vmID)
	}
	return p, t.driver(err)
}

// Protections implements broker.Tx, in the order of the machines' ids.
func (t *tx) Protections() ([]access.Protection, error) {
	return collect(t, qProtections, nil, scanProtection)
}

// ProtectionsAt implements broker.Tx: all at that place but those that are off.
func (t *tx) ProtectionsAt(place string) ([]access.Protection, error) {
	return collect(t, qProtectionsAt, []any{fold(place)}, scanProtection)
}
